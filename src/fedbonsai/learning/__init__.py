"""What happens on one client: a model, its data, and training, scoring and evaluating them."""
