"""Video: cameras, files, streams and the video writer."""
