"""Collections of studies, one file or small folder each: source files → a prepared folder."""
