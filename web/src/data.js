// The data of the page: blocks of JSON, compressed with zstd, in base64; decoded when needed.

import { decompress } from "fzstd";

function bytesOf(id) {
  const binary = atob(document.getElementById(id).textContent.trim());
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

const text = new TextDecoder();

const decoded = new Map();

// Return the content of a block, which is decoded once.
export function read(id) {
  if (!decoded.has(id)) decoded.set(id, JSON.parse(text.decode(decompress(bytesOf(id)))));
  return decoded.get(id);
}

export const notices = () => text.decode(bytesOf("notices"));

// Return the rows of a table of the facts as objects.
export function rowsOf(table) {
  return table.rows.map((row) =>
    Object.fromEntries(table.columns.map((name, index) => [name, row[index]])),
  );
}
