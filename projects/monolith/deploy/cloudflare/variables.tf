variable "account_id" {
  type        = string
  description = "The Cloudflare account that holds zone, tunnel and Access."
}

variable "zone_id" {
  type        = string
  description = "The zone that the previews' names are in."
}

variable "zone_name" {
  type        = string
  default     = "jomcgi.dev"
  description = "That zone's name."
}

variable "team_name" {
  type        = string
  default     = "jomcgi"
  description = "The Zero Trust organisation: <team_name>.cloudflareaccess.com."
}

variable "people" {
  type        = set(string)
  description = "Email addresses of the people who may see previews."

  validation {
    condition     = length(var.people) > 0
    error_message = "Refused to plan Access: expected people to name somebody, the variable says []. Name the email addresses that may see previews."
  }
  validation {
    condition     = alltrue([for email in var.people : can(regex("^[^\\s@,*]+@[^\\s@,*]+$", email))])
    error_message = "Refused to plan Access: expected people to hold whole email addresses, the variable says otherwise. Name each person; a domain or a wildcard would let in strangers."
  }
}

variable "identity_providers" {
  type        = set(string)
  description = "Ids of the identity providers that people sign in with. Never the one-time PIN."

  validation {
    condition     = length(var.identity_providers) > 0
    error_message = "Refused to plan Access: expected identity_providers to name one, the variable says []. Without any, Access would offer all of them, one-time PIN too. Name the id of yours."
  }
}

variable "service_token_duration" {
  type        = string
  default     = "2160h"
  description = "How long the service token lives, from when it was made. Nothing renews it."
}

variable "service_token_rotation" {
  type        = object({ version = number, previous_expires_at = string })
  default     = null
  description = "Leave out at first; each new version makes a new secret, and the one before ends then."
}

variable "tunnel_id" {
  type        = string
  description = "The tunnel that leads to the previews' Gateway."
}

variable "open_to_tunnel" {
  type        = bool
  default     = false
  description = "Lead the previews' names to the tunnel. Only once check-access has said PROTECTED."
}

locals {
  domain   = "pr.${var.zone_name}"
  wildcard = "*.pr.${var.zone_name}"
}
