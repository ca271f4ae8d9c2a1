"""The camera demo: pipeline, controls, status, recorder, window."""
