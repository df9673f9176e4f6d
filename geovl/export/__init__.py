"""Writers: a run's polygons or label raster as a file of a common format."""
