"""What every feature of the monolith may import; it imports nothing of ours."""
