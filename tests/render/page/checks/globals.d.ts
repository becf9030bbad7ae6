interface Window {
  /** The interface texts by language and key; `assemble.py` writes them before the modules. */
  TEXTS: Record<string, Record<string, string>>;
}
