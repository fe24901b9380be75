"""HTML pages that are one file: pictures, figures, sliders, charts inside, and no request to anywhere."""
