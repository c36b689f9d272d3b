// The list at the left: search, filters, sorting, and a page of what is left.

import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { short } from "./text.jsx";

const A_PAGE = 50;

// items: [{id, question, gold, …}]; filters: name → [label, test]; sorts: name → [label, key].
export function useList({ items, filters, sorts, query }) {
  const search = (query.search ?? "").toLowerCase();
  const found = useMemo(() => items.filter((item) => item.searched.includes(search)), [items, search]);
  const counts = useMemo(
    () => Object.fromEntries(Object.entries(filters).map(([name, [, test]]) => [name, found.filter(test).length])),
    [found, filters],
  );
  const kept = useMemo(() => {
    const [, test] = Object.hasOwn(filters, query.filter) ? filters[query.filter] : [null, () => true];
    const chosen = found.filter(test);
    const [, key] = Object.hasOwn(sorts, query.sort) ? sorts[query.sort] : [];
    return key ? chosen.sort((a, b) => key(a) - key(b)) : chosen;
  }, [found, filters, sorts, query.filter, query.sort]);
  return { kept, counts, total: items.length };
}

export function List({ list, query, filters, sorts, current, href, change, row, children }) {
  const { kept, counts, total } = list;
  const input = useRef(null);
  useLayoutEffect(() => {
    const focus = (event) => {
      if (event.key !== "/" || typing(event)) return;
      event.preventDefault();
      input.current.focus();
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);
  const place = Math.max(0, kept.findIndex((item) => item.id === current));
  const pages = Math.max(1, Math.ceil(kept.length / A_PAGE));
  const asked = query.page ? Math.trunc(Number(query.page)) - 1 || 0 : Math.floor(place / A_PAGE);
  const page = Math.max(0, Math.min(pages - 1, asked));
  return (
    <div class="list">
      <form role="search" onSubmit={(event) => event.preventDefault()}>
        <label>
          Search <kbd aria-hidden="true">/</kbd>
          <input ref={input} type="search" value={query.search ?? ""} placeholder="words of a question, an id, a gold answer"
            onInput={(event) => change({ search: event.currentTarget.value, page: "" })} />
        </label>
        {children}
        <fieldset class="filters">
          <legend>Show</legend>
          {Object.entries(filters).map(([name, [label]]) => (
            <button type="button" aria-pressed={(query.filter ?? "all") === name}
              onClick={() => change({ filter: name === "all" ? "" : name, page: "" })}>
              {label} <span class="count">{counts[name].toLocaleString("en")}</span>
            </button>
          ))}
        </fieldset>
        <label>
          Sort by
          <select value={query.sort ?? ""} onChange={(event) => change({ sort: event.currentTarget.value, page: "" })}>
            {Object.entries(sorts).map(([name, [label]]) => <option value={name}>{label}</option>)}
          </select>
        </label>
      </form>
      <p class="note" role="status">
        {kept.length.toLocaleString("en")} of {total.toLocaleString("en")}
      </p>
      <ul class="items">
        {kept.slice(page * A_PAGE, (page + 1) * A_PAGE).map((item) => (
          <li>
            <a href={href(item.id)} aria-current={item.id === current ? "true" : undefined}>
              <span class="title"><bdi>{short(item.question, 110)}</bdi></span>
              <span class="row">{row(item)}</span>
            </a>
          </li>
        ))}
      </ul>
      {pages > 1 && (
        <nav class="pages" aria-label="Pages of the list">
          <button type="button" disabled={page === 0} onClick={() => change({ page: String(page) })}>Previous</button>
          <span>{page + 1} of {pages}</span>
          <button type="button" disabled={page === pages - 1} onClick={() => change({ page: String(page + 2) })}>Next</button>
        </nav>
      )}
    </div>
  );
}

export function typing(event) {
  return event.ctrlKey || event.metaKey || event.altKey || /^(input|select|textarea)$/i.test(event.target.tagName ?? "");
}
