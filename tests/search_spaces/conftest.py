from hypothesis import HealthCheck, settings

# A busy machine is no failure, and the same commit tests the same examples.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
