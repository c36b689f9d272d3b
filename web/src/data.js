// The data of the page: blocks of deflated JSON in base64, decoded when they are needed.

async function decode(id) {
  const binary = atob(document.getElementById(id).textContent.trim());
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const decoded = new Map();

// Return a promise of a block's content; a block is decoded once.
export function read(id) {
  if (!decoded.has(id)) decoded.set(id, decode(id));
  return decoded.get(id);
}

export function notices() {
  const binary = atob(document.getElementById("notices").textContent.trim());
  return new TextDecoder().decode(Uint8Array.from(binary, (character) => character.charCodeAt(0)));
}

// Return the rows of a table of the facts as objects.
export function rowsOf(table) {
  return table.rows.map((row) =>
    Object.fromEntries(table.columns.map((name, index) => [name, row[index]])),
  );
}
