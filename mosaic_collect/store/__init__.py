"""A store on its medium: format, names, commit. It knows no thread and no tensor."""
