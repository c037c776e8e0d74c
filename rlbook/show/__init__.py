"""Figures, widgets and text for the chapters. Nothing but notebooks and the CLI imports this."""
