"""Clusters: checking the files that start one, and what their nodes tell Ray about themselves."""
