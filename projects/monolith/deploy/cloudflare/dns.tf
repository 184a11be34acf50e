# For the whole zone. Nobody's browser needs it, because .dev is preloaded; an attacker's tool does.
resource "cloudflare_zone_setting" "always_use_https" {
  zone_id    = var.zone_id
  setting_id = "always_use_https"
  value      = "on"
}

# Last. At first the names lead to the discard prefix (RFC 6666), where nothing answers: whatever is
# wrong with Access shows in check-access, and shows nothing else.
resource "cloudflare_dns_record" "previews" {
  zone_id = var.zone_id
  name    = local.wildcard
  type    = var.open_to_tunnel ? "CNAME" : "AAAA"
  content = var.open_to_tunnel ? "${var.tunnel_id}.cfargotunnel.com" : "100::"
  proxied = true
  ttl     = 1
  comment = "previews; never without the Access application of the same name"

  depends_on = [
    cloudflare_zero_trust_access_application.previews,
    cloudflare_certificate_pack.previews,
    cloudflare_zone_setting.always_use_https,
  ]
}
