# Universal SSL ends one label below the zone, and Total TLS leaves a tunnel's names out, so this
# needs the paid Advanced Certificate Manager. See docs/decisions/0003.
resource "cloudflare_certificate_pack" "previews" {
  zone_id               = var.zone_id
  type                  = "advanced"
  certificate_authority = "google"
  validation_method     = "txt" # the only one for a wildcard; Cloudflare answers it itself
  validity_days         = 90
  hosts                 = [var.zone_name, local.domain, local.wildcard] # without the apex, every plan differs

  lifecycle {
    create_before_destroy = true
    prevent_destroy       = true
  }
}
