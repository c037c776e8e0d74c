"""The book as a whole: its table of contents, its chapters' hygiene, and running them."""
