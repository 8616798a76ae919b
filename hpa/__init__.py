"""The shared base of all stages: data layouts, splits, the work folder, reports and the synthetic atlas."""
