"""The shipped recipes, one TOML file per experiment; `pipeline.recipe.read_recipe` finds them by name."""
