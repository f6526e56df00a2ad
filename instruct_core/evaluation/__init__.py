"""What training did to a model, in numbers. Imports train, answers and what lies below them."""
