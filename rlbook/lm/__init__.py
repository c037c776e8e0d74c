"""A language model as a policy: loading, sampling, scoring, and tasks to try it on (Part III)."""
