"""What a person gives, as YAML files and on the command line: found, composed, checked, and explained when it cannot be."""
