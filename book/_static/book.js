// The search page fetches every result to show a summary.  A browser refuses
// that for pages opened from a folder, so there the titles must do.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
