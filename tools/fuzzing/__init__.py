"""A fuzzer of every boundary at which a file or a form comes in; outcomes of broken and hostile inputs are counted."""
