"""The quickstart datasets, one module each, out of the documentation of AWS APIs that botocore (Apache-2.0) ships."""
