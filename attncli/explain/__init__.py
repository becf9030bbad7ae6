"""Questions asked of a model about one text. Each returns findings; none prints."""
