// Texts of models: they may contain anything, so they are text nodes only, isolated from the
// direction of what is around them, with control characters made visible.

import { diffWords } from "diff";
import { useMemo } from "preact/hooks";
import { shown } from "./numbers.jsx";

const CONTROL =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

export function visible(text) {
  return text.replace(CONTROL, (character) => {
    const code = character.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

export function Text({ children }) {
  return <bdi>{visible(children ?? "")}</bdi>;
}

export function short(text, length = 90) {
  const line = text.slice(0, length * 4).replace(/\s+/g, " ").trim();
  return visible(line.length > length ? `${line.slice(0, length)}…` : line);
}

// A marked text of unrelated words helps nobody.
const SHARED = 0.25;

// Return the parts of `text` that are new, gone and kept against `before`; null if they share too
// little, or comparing them takes too long.
export function useChanges(before, text) {
  return useMemo(() => {
    if (before == null) return null;
    const parts = diffWords(visible(before), visible(text), { timeout: 300 });
    if (!parts) return null;
    const size = (chosen) => chosen.reduce((sum, part) => sum + part.value.trim().length, 0);
    const kept = size(parts.filter((part) => !part.added && !part.removed));
    const whole = Math.max(before.length, text.length, 1);
    return kept / whole >= SHARED ? parts : null;
  }, [before, text]);
}

export function Changes({ parts }) {
  return (
    <bdi>
      {parts.map((part) =>
        part.added ? <ins>{part.value}</ins> : part.removed ? <del>{part.value}</del> : part.value,
      )}
    </bdi>
  );
}

// What a reasoning model thought before a text, folded; nothing if it did not.
export function Thinking({ children }) {
  if (!children) return null;
  return (
    <details>
      <summary>thinking ({shown(children.length)} characters)</summary>
      <pre class="text thinking" tabIndex={0}><Text>{children}</Text></pre>
    </details>
  );
}
