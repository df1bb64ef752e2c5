"""Text: chat templates, text next to frames, subtitles, and questions for connectors."""
