"""From a conversation to text: chat templates, text next to frames, subtitles, questions."""
