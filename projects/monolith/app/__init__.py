"""The monolith itself: a web app with two startup points."""
