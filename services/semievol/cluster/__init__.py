"""What a release on a cluster needs besides the services: waiting for its servers, and trying it."""
