"""The machine as data: circuits of components, templates, and the states a component can be in."""
