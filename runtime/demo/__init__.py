"""The camera demo: pipeline, controls, recorder, window."""
