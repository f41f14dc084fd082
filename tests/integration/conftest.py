from gateway_world import cloud, own_cloud, shared_cloud

__all__ = ["cloud", "own_cloud", "shared_cloud"]  # fixtures
