"""The operator's side: previews on one machine."""
