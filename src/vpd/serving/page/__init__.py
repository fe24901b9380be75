"""The page: forms for pictures and words, and a viewer of the answers. It needs Gradio; the service does not."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported, and would else tell of itself
