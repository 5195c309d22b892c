// What the pages of orlop do better with a script: they stay current without being loaded again,
// charts are read out, configuration is copied. Nothing here is needed to read or use them.
"use strict";

const PAUSE_MS = 10_000;
const PATIENCE_MS = 8_000;

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function made(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

// Whether somebody wants the page to stand still: for the visit, as far as the browser remembers it.
let pausedAt = null;

// Times

// The server's clock, which the times of the page are told by: ours may be wrong.
let ahead_ms = 0;

function span(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  const days = Math.floor(seconds / 86_400);
  return days === 1 ? "1 day" : `${days} days`;
}

function tick() {
  if (pausedAt) return;
  const now = Date.now() + ahead_ms;
  for (const time of all("time[title]")) {
    const seconds = Math.max(0, Math.floor((now - Date.parse(time.dateTime)) / 1000));
    const text = seconds < 5 ? "just now" : `${span(seconds)} ago`;
    if (time.textContent !== text && !isSelected(time)) time.textContent = text;
  }
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

// Staying current

// Whether a selection that somebody is making touches an element.
function isSelected(element) {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && selection.containsNode(element, true));
}

// What the script itself added is marked and left alone, as are the attributes that `data-keep` names.
const isOurs = (node) => node.nodeType === Node.ELEMENT_NODE && node.hasAttribute("data-script");
const isAlike = (one, other) =>
  one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");

// Makes `old` what `fresh` is, and keeps every node that can be kept: with it stay the focus, the
// scrolling, and what is unfolded.
function become(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  const kept = new Set(["open", ...(old.dataset.keep ?? "").split(" ")]);
  for (const { name } of [...old.attributes]) {
    const ours = kept.has(name) || name.startsWith("data-") || name === "tabindex";
    if (!ours && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!kept.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  let next = old.firstChild;
  const skip = () => {
    while (next && isOurs(next)) next = next.nextSibling;
  };
  for (const child of [...fresh.childNodes]) {
    if (isOurs(child)) continue;
    skip();
    if (next && isAlike(next, child)) {
      become(next, child);
      next = next.nextSibling;
    } else {
      const same = child.id && [...old.children].find((one) => isAlike(one, child));
      if (same) {
        old.insertBefore(same, next);
        become(same, child);
      } else {
        old.insertBefore(document.importNode(child, true), next);
      }
    }
  }
  skip();
  while (next) {
    const gone = next;
    next = next.nextSibling;
    if (!isOurs(gone)) gone.remove();
  }
}

let shown = location.pathname + location.search;
let unreachableSince = null;

const CROSS =
  '<svg class="mark bad" viewBox="0 0 20 20" aria-hidden="true" data-script=""><path class="body" d="M6.3 1h7.4L19 6.3v7.4L13.7 19H6.3L1 13.7V6.3z"/><path d="m6.8 6.8 6.4 6.4M13.2 6.8l-6.4 6.4"/></svg>';

// A page that is not current looks so, and its verdict is that it cannot be had.
const stale = {
  headline: null,
  title: null,
  tell(since) {
    const at = since.toLocaleTimeString();
    this.told = made("p", { class: "unreachable", "data-script": "" },
      `Not reachable since ${at}. What is shown is from before; it is tried again.`);
    this.title = document.title;
    document.title = `Not reachable · ${document.title.split(" · ").at(-1)}`;
    document.documentElement.classList.add("is-old");
    const headline = document.querySelector("#verdict h1");
    if (headline) {
      this.headline = headline.textContent;
      headline.textContent = "Not reachable";
      headline.closest("#verdict").insertAdjacentHTML("afterbegin", CROSS);
    }
    place.append(this.told);
  },
  forget() {
    this.told.remove();
    this.told = null;
    document.title = this.title;
    document.documentElement.classList.remove("is-old");
    const headline = document.querySelector("#verdict h1");
    if (!headline) return;
    headline.textContent = this.headline;
    document.querySelector("#verdict > [data-script]").remove();
  },
};

function tellUnreachable() {
  if (unreachableSince && !stale.told) stale.tell(unreachableSince);
  if (!unreachableSince && stale.told) stale.forget();
}

// Browsers of before 2022 have no `AbortSignal.timeout`.
function patience() {
  if (AbortSignal.timeout) return AbortSignal.timeout(PATIENCE_MS);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), PATIENCE_MS);
  return controller.signal;
}

async function load(url) {
  const response = await fetch(url, { signal: patience(), headers: { accept: "text/html" }, cache: "no-store" });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!page.querySelector("[data-live]")) throw new Error("not a page of this mirror");
  const date = Date.parse(response.headers.get("date") ?? "");
  if (!Number.isNaN(date)) ahead_ms = Math.abs(date - Date.now()) < 2_000 ? 0 : date - Date.now();
  return page;
}

// Whether a page goes with another style or script than this one: the program was upgraded.
function isOfAnother(page) {
  const files = (within) =>
    all('link[rel="stylesheet"], script[src]', within).map((one) => one.getAttribute("href") ?? one.getAttribute("src"));
  return files(page).join() !== files(document).join();
}

// Whether loading the page again would take something out of one's hands.
function isInUse() {
  const selection = document.getSelection();
  const isTyped = all("input").some((input) => input.value !== input.defaultValue);
  return isTyped || Boolean(selection && !selection.isCollapsed);
}

function apply(page) {
  if (isOfAnother(page)) {
    if (!isInUse()) location.reload();
    return;
  }
  equip(page);
  document.title = page.title;
  for (const part of all("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (fresh && !isSelected(part)) become(part, fresh);
  }
  const [foot, freshFoot] = [document.querySelector("footer"), page.querySelector("footer")];
  if (foot && freshFoot) become(foot, freshFoot);
  all('[role="tablist"]').forEach(chooseOne);
  tick();
  for (const chart of charts) chart.update();
}

let running = false;

async function refresh() {
  if (running || pausedAt || document.hidden || !document.querySelector("[data-live]")) return;
  running = true;
  const asked = shown;
  let page = null;
  try {
    page = await load(asked);
    unreachableSince = null;
  } catch {
    unreachableSince ??= new Date();
  }
  running = false;
  tellUnreachable();
  if (page && asked === shown) apply(page);
}

let asks = 0;

// A range is shown without leaving the page; where that fails, as without a script. Of several
// that were asked for in haste, the last one counts.
async function show(url, isNew) {
  const asked = url.pathname + url.search;
  const mine = ++asks;
  shown = asked;
  let page = null;
  try {
    page = await load(asked);
  } catch { /* The browser says why it cannot be had. */ }
  if (mine !== asks) return;
  if (!page) return location.assign(url);
  if (isNew) history.pushState(null, "", asked);
  unreachableSince = null;
  tellUnreachable();
  apply(page);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.(".ranges a");
  if (!link || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  show(new URL(link.href), true);
});
addEventListener("popstate", () => {
  if (location.pathname + location.search !== shown) show(new URL(location.href), false);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});

// Charts that are read out

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.at = null;
    this.picture = figure.querySelector(".picture");
    this.svg = figure.querySelector("svg");
    this.readout = made("p", { class: "readout", "data-script": "" });
    figure.querySelector(".plot").append(this.readout);
    this.cursor = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ class: "cursor", y: 0, height: 200, width: 0, "data-script": "" })) {
      this.cursor.setAttribute(name, value);
    }
    this.svg.append(this.cursor);
    const picture = this.picture;
    picture.dataset.keep = "role aria-label aria-valuemin aria-valuemax aria-valuenow aria-valuetext";
    picture.setAttribute("tabindex", "0");
    picture.setAttribute("role", "slider");
    picture.setAttribute("aria-label", `${figure.querySelector("h3").textContent}, step by step`);
    picture.setAttribute("aria-valuemin", "1");
    picture.addEventListener("pointermove", (event) => this.point(event));
    picture.addEventListener("pointerdown", (event) => this.point(event));
    picture.addEventListener("pointerleave", () => {
      if (document.activeElement !== picture) this.go(null);
    });
    picture.addEventListener("focus", () => {
      if (this.at === null && picture.matches(":focus-visible")) this.go(this.rows().length - 1);
    });
    picture.addEventListener("blur", () => this.go(null));
    picture.addEventListener("keydown", (event) => this.key(event));
    this.update();
  }

  // The rows of the table, the oldest first as the columns are.
  rows() {
    return all("#traffic-data tbody tr").reverse();
  }

  update() {
    this.go(this.at === null ? null : Math.min(this.at, this.rows().length - 1));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const count = this.rows().length;
    const at = Math.floor(((event.clientX - box.left) / box.width) * count);
    this.go(Math.min(Math.max(at, 0), count - 1));
  }

  key(event) {
    const last = this.rows().length - 1;
    const at = this.at ?? last;
    const steps = {
      ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageUp: at + 10, PageDown: at - 10, Home: 0, End: last,
    };
    if (event.key === "Escape") return this.go(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.go(Math.min(Math.max(steps[event.key], 0), last));
  }

  go(at) {
    const rows = this.rows();
    this.at = rows.length ? at : null;
    const text = this.at === null ? "" : this.words(rows[this.at]);
    this.readout.textContent = text;
    this.cursor.setAttribute("x", (this.at ?? 0) * 10);
    this.cursor.setAttribute("width", this.at === null ? 0 : 10);
    this.picture.setAttribute("aria-valuemax", String(Math.max(rows.length, 1)));
    this.picture.setAttribute("aria-valuenow", String((this.at ?? Math.max(rows.length - 1, 0)) + 1));
    this.picture.setAttribute("aria-valuetext", text || "no step chosen");
  }

  words(row) {
    const [hits, stale, misses, , saved, fetched, , failed] = all("td", row).map((cell) => cell.textContent);
    const at = clock.format(new Date(row.querySelector("time").dateTime));
    if (this.figure.id === "chart-bytes") return `${at}: ${saved} saved, ${fetched} fetched`;
    const old = stale === "0" ? "" : `, ${stale} past their time`;
    const lost = failed === "0" ? "" : `, ${failed} failed`;
    return `${at}: ${hits} answered from here${old}, upstream asked for ${misses}${lost}`;
  }
}

// Tabs in the place of what unfolds

function tabs(ways) {
  const details = all("details", ways);
  if (details.length < 2) return;
  const list = made("div", { role: "tablist", id: "ways", "aria-label": "Ways to set cargo up" });
  details.forEach((one, at) => {
    const { id } = one;
    const isFirst = at === 0;
    const tab = made("button", {
      role: "tab", type: "button", id: `tab-${id}`, "aria-controls": id, "aria-selected": String(isFirst),
      tabindex: isFirst ? "0" : "-1", "data-keep": "aria-selected tabindex",
    }, one.querySelector("summary").textContent);
    const panel = made("div", { role: "tabpanel", id, "aria-labelledby": tab.id, "data-keep": "hidden" });
    panel.hidden = !isFirst;
    panel.append(one.querySelector(".way"));
    one.replaceWith(panel);
    list.append(tab);
  });
  ways.prepend(list);
}

function choose(chosen) {
  for (const tab of all('[role="tab"]', chosen.parentElement)) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  }
}

// One is chosen, also where the one that was is no longer there.
function chooseOne(list) {
  choose(list.querySelector('[aria-selected="true"]') ?? list.firstElementChild);
}

function chooseByHash() {
  const tab = document.getElementById(`tab-${location.hash.slice(1)}`);
  if (tab) choose(tab);
}

document.addEventListener("click", (event) => {
  const tab = event.target.closest?.('[role="tab"]');
  if (tab) choose(tab);
});
document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.('[role="tab"]');
  if (!tab) return;
  const both = all('[role="tab"]', tab.parentElement);
  const [at, count] = [both.indexOf(tab), both.length];
  const steps = { ArrowRight: (at + 1) % count, ArrowLeft: (at + count - 1) % count, Home: 0, End: count - 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  choose(both[steps[event.key]]);
  both[steps[event.key]].focus();
});
addEventListener("hashchange", chooseByHash);

// Copying

function select(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = document.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

// Browsers give the clipboard to https and localhost only; elsewhere the text is selected, and
// copied by the old way where there still is one.
async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    select(element);
    let done = false;
    try {
      done = document.execCommand("copy");
    } catch { /* The text is selected. */ }
    return done ? "Copied" : "Selected";
  }
}

function copyButton(place) {
  place.append(
    made("button", { type: "button", class: "copy", "data-script": "" }, "Copy"),
    made("span", { class: "unseen", role: "status", "data-script": "" }),
  );
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.(".copy");
  if (!button) return;
  const [code, said] = [button.parentElement.querySelector("code"), button.nextElementSibling];
  button.textContent = await copy(code.textContent, code);
  said.textContent = button.textContent === "Copied" ? "Copied" : "Selected; copy it with the keyboard";
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = setTimeout(() => {
    button.textContent = "Copy";
    said.textContent = "";
  }, 2_500);
});

// Standing still

function pauseButton() {
  const button = made("button", { type: "button", class: "pause", "data-script": "" });
  const say = () => {
    button.textContent = pausedAt ? `Resume updates (paused at ${pausedAt.toLocaleTimeString()})` : "Pause updates";
  };
  // A browser may forbid to remember.
  const remember = (work) => {
    try {
      return work(sessionStorage);
    } catch {
      return null;
    }
  };
  if (remember((visit) => visit.getItem("paused"))) pausedAt = new Date();
  button.addEventListener("click", () => {
    pausedAt = pausedAt ? null : new Date();
    remember((visit) => (pausedAt ? visit.setItem("paused", "yes") : visit.removeItem("paused")));
    say();
    refresh();
  });
  say();
  document.querySelector("footer p").append(button);
}

// Where it is said that the page is old: what it is there for must stand before something is said.
function statusPlace() {
  const verdict = document.querySelector('#verdict [role="status"]');
  if (verdict) return verdict;
  const own = made("div", { role: "status", "data-script": "" });
  document.querySelector("main").prepend(own);
  return own;
}

// What a page has with a script; pages that are fetched get it before they are shown.
function equip(page) {
  all("[data-tabs]", page).forEach(tabs);
  all(".copied", page).forEach(copyButton);
}

equip(document);
chooseByHash();
const charts = all(".chart").map((figure) => new Chart(figure));
const place = statusPlace();
if (document.querySelector("[data-live]")) pauseButton();
tick();
setInterval(tick, 5_000);
setInterval(refresh, PAUSE_MS);
