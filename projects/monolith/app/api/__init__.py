"""The routes; none of them acts outside."""
