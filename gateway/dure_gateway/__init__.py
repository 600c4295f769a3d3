"""The gateway: authenticates, validates, admits or refuses, records the job, streams the answer. No model, no torch."""
