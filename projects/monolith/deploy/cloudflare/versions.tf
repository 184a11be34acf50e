# The edge in front of every preview: who may see one, its certificate, and, last, its name.
# docs/cloudflare.md says in which order, and what the state holds.
terraform {
  required_version = ">= 1.10.0"

  required_providers {
    cloudflare = {
      source  = "cloudflare/cloudflare"
      version = "~> 5.22"
    }
  }

  # The state holds the service token's secret, so it never lies in a file here: `terraform init`
  # asks for a bucket of your own, and docs/cloudflare.md says what that must be.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "cloudflare" {} # CLOUDFLARE_API_TOKEN, from the environment
