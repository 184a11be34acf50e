"""What the twin starts in place of the outside world: real servers, on loopback only."""
