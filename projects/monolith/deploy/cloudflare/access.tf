resource "cloudflare_zero_trust_access_service_token" "ci" {
  account_id                        = var.account_id
  name                              = "previews: ci"
  duration                          = var.service_token_duration
  client_secret_version             = try(var.service_token_rotation.version, null)
  previous_client_secret_expires_at = try(var.service_token_rotation.previous_expires_at, null)

  lifecycle {
    prevent_destroy = true # its client id is a value of the chart
  }
}

# One week before a service token of the account ends.
resource "cloudflare_notification_policy" "service_token" {
  account_id  = var.account_id
  name        = "previews: service token ends"
  description = "Rotate it as docs/cloudflare.md says."
  alert_type  = "expiring_service_token_alert"
  enabled     = true
  mechanisms = {
    email = [for email in sort(var.people) : { id = email }]
  }
}

# Two policies: a service token under `allow` would be asked to sign in.
resource "cloudflare_zero_trust_access_policy" "people" {
  account_id       = var.account_id
  name             = "previews: people"
  decision         = "allow"
  session_duration = "8h"
  include          = [for email in sort(var.people) : { email = { email = email } }]
}

resource "cloudflare_zero_trust_access_policy" "machines" {
  account_id       = var.account_id
  name             = "previews: machines"
  decision         = "non_identity"
  session_duration = "15m"
  include = [
    { service_token = { token_id = cloudflare_zero_trust_access_service_token.ci.id } },
  ]
}

resource "cloudflare_zero_trust_access_application" "previews" {
  account_id = var.account_id
  name       = "previews"
  type       = "self_hosted"
  domain     = local.wildcard
  # A `*` of Access is one label; those of DNS, the tunnel and the Gateway are any number of them.
  destinations = [
    { type = "public", uri = local.wildcard },
    { type = "public", uri = "*.${local.wildcard}" },
    { type = "public", uri = local.domain },
  ]
  allowed_idps               = sort(var.identity_providers)
  auto_redirect_to_identity  = length(var.identity_providers) == 1
  session_duration           = "8h"
  app_launcher_visible       = false
  http_only_cookie_attribute = true
  same_site_cookie_attribute = "lax"
  options_preflight_bypass   = false
  service_auth_401_redirect  = false
  policies = [
    { id = cloudflare_zero_trust_access_policy.machines.id, precedence = 1 },
    { id = cloudflare_zero_trust_access_policy.people.id, precedence = 2 },
  ]

  lifecycle {
    prevent_destroy = true # a new application has a new audience, and every origin would refuse it
  }
}
