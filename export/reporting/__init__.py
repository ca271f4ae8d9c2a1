"""Tables and figures that several reports of the export stage share."""
