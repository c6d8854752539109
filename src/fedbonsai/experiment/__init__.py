"""An experiment as a value, from a command line, a TOML file or Python; running it wires all layers together."""
