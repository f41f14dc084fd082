"""The page at /docs: what ``/openapi.json`` says, to read and to try. It needs no network."""

PAGE_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
        b"script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    ),
)

PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
         color-scheme: light dark; }
  section { border-top: 1px solid #8886; padding: .5rem 0 1rem; }
  h2 { font-size: 1.1rem; margin: .5rem 0; }
  code, pre, textarea { font: 14px/1.4 ui-monospace, monospace; }
  pre { overflow: auto; background: #8882; padding: .5rem; white-space: pre-wrap; }
  textarea, input { width: 100%; box-sizing: border-box; }
  p { white-space: pre-line; }
</style>
<main><p>Loading\xe2\x80\xa6</p></main>
<script>
"use strict";
const base = location.pathname.replace(/\\/(docs|redoc|ledoc)\\/?$/, "");
const main = document.querySelector("main");

function add(parent, tag, text) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function resolved(schema, all) {
  return schema && schema.$ref ? all[schema.$ref.split("/").pop()] || {} : schema || {};
}

function blank(schema, all) {
  const of = resolved(schema, all), example = {};
  for (const [name, field] of Object.entries(of.properties || {}))
    example[name] = "default" in field ? field.default
      : { integer: 0, number: 0, string: "", boolean: false, array: [] }[field.type] ?? null;
  return example;
}

function show(path, method, operation, all) {
  const part = add(main, "section");
  add(add(part, "h2"), "code", method.toUpperCase() + " " + path);
  if (operation.description) add(part, "p", operation.description);
  const inputs = {};
  for (const parameter of operation.parameters || []) {
    const label = add(part, "label", parameter.name + (parameter.required ? "" : " (optional)"));
    inputs[parameter.name] = [parameter.in, add(label, "input")];
  }
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  let body = null;
  if (content) {
    const example = content.example ?? blank(content.schema, all);
    body = add(part, "textarea", JSON.stringify(example, null, 1));
    body.rows = 5;
  }
  const button = add(part, "button", "Try");
  const result = add(part, "pre");
  result.hidden = true;
  button.onclick = async () => {
    let target = path;
    const query = new URLSearchParams();
    for (const [name, [where, input]] of Object.entries(inputs))
      if (where === "path") target = target.replace(`{${name}}`, encodeURIComponent(input.value));
      else if (input.value) query.append(name, input.value);
    result.hidden = false;
    result.textContent = "\xe2\x80\xa6";
    const answer = await fetch(base + target + (query.size ? "?" + query : ""), {
      method: method.toUpperCase(), body: body && body.value,
      headers: body ? { "content-type": "application/json" } : {} });
    result.textContent = answer.status + " " + answer.statusText + "\\n" + await answer.text();
  };
}

fetch(base + "/openapi.json").then((answer) => answer.json()).then((api) => {
  main.replaceChildren();
  document.title = api.info.title;
  add(main, "h1", api.info.title);
  if (api.info.description) add(main, "p", api.info.description);
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(methods))
      show(path, method, operation, api.components.schemas);
}).catch((error) => { main.textContent = "The API cannot be shown: " + error; });
</script>
</html>
"""
