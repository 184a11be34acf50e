output "preview_access" {
  description = "Just what preview.access takes, in the chart's values-preview.yaml."
  value = {
    teamDomain     = "https://${var.team_name}.cloudflareaccess.com"
    aud            = cloudflare_zero_trust_access_application.previews.aud
    emails         = sort(var.people)
    serviceClients = [cloudflare_zero_trust_access_service_token.ci.client_id]
  }
}

output "service_token_client_id" {
  value = cloudflare_zero_trust_access_service_token.ci.client_id
}

output "service_token_client_secret" {
  value     = cloudflare_zero_trust_access_service_token.ci.client_secret
  sensitive = true
}

output "service_token_expires_at" {
  value = cloudflare_zero_trust_access_service_token.ci.expires_at
}
