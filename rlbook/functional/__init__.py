"""The formulas of the book in torch: pure functions, no models, no environments, no files."""
