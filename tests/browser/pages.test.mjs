// The pages in a real Chromium. Started by `cargo test --test it browser:: -- --ignored`, which
// brings up mirrors in several states and names them in ORLOP_PAGES.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const { empty, busy, trouble, below, longName, doomed, doomedPid, screenshots } = JSON.parse(process.env.ORLOP_PAGES);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const NARROW = { width: 320, height: 640 };
const WIDTHS = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 900 } };
const PAGES = {
  empty: `${empty}/`,
  busy: `${busy}/`,
  week: `${busy}/?range=week`,
  trouble: `${trouble}/`,
  crates: `${busy}/crates`,
  found: `${busy}/crates?q=harbour`,
  "not-found": `${busy}/crates?q=no-such-name`,
  crate: `${busy}/crates/harbour`,
  many: `${busy}/crates/fathom`,
  long: `${busy}/crates/${longName}`,
  below: `${below}/`,
  "unknown-crate": `${busy}/crates/no-such-name`,
  "no-name": `${busy}/crates/9-%3Cb%3E`,
  nowhere: `${busy}/nowhere`,
};
const PATIENCE_MS = 40_000;

let browser;
before(async () => {
  mkdirSync(screenshots, { recursive: true });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser?.close());

// A tab that notes what must not be: requests elsewhere, errors in the console, violations of the
// content security policy.
async function tab(options = {}) {
  const context = await browser.newContext({ viewport: WIDTHS.desktop, reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const wrong = [];
  const own = [empty, busy, trouble, below, doomed];
  await context.route("**", (route) => {
    const url = route.request().url();
    if (own.some((base) => url.startsWith(`${base}/`))) return route.continue();
    wrong.push(`asked elsewhere: ${url}`);
    return route.abort();
  });
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("console", (message) => {
    const isStatus = /status of (400|404)/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isStatus) wrong.push(message.text());
  });
  const close = async () => {
    await context.close();
    assert.deepEqual(wrong, []);
  };
  return { context, page, wrong, close };
}

async function audit(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" | ")}`);
}

const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);

// Every page once by day and once by night; those that are looked at most in all four ways.
const MAIN = ["empty", "busy", "trouble", "crate"];
for (const colorScheme of ["light", "dark"]) {
  for (const [size, viewport] of Object.entries(WIDTHS)) {
    test(`every page is sound, ${colorScheme}, ${size}`, async () => {
      const isWhole = (colorScheme === "light") === (size === "phone");
      for (const name of isWhole ? Object.keys(PAGES) : MAIN) {
        const url = PAGES[name];
        const { page, close } = await tab({ viewport, colorScheme });
        const response = await page.goto(url, { waitUntil: "load" });
        const policy = response.headers()["content-security-policy"];
        assert.match(policy, /default-src 'none'/);
        assert.doesNotMatch(policy, /unsafe|\*/);
        assert.deepEqual(await audit(page), [], name);
        assert.ok(await overflow(page) <= 0, `${name} is wider than the ${size}`);
        await page.screenshot({ path: `${screenshots}/${name}-${size}-${colorScheme}.png`, fullPage: true });
        await close();
      }
    });
  }
}

test("no page is wider than the narrowest phone", async () => {
  const { page, close } = await tab({ viewport: NARROW });
  for (const [name, url] of Object.entries(PAGES)) {
    await page.goto(url);
    assert.ok(await overflow(page) <= 0, name);
  }
  await close();
});

test("below a path every link leads on", async () => {
  const { page, close } = await tab();
  await page.goto(`${below}/`);
  assert.ok(await page.getByText(`sparse+${below}/index/`).isVisible());
  await page.getByRole("link", { name: "Week" }).click();
  await page.locator(".ranges [aria-current]", { hasText: "Week" }).waitFor();
  assert.equal(page.url(), `${below}/?range=week`);
  await page.getByRole("searchbox").fill("harbour");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "harbour", exact: true }).click();
  assert.equal(page.url(), `${below}/crates/harbour`);
  await page.getByRole("link", { name: "Set up cargo" }).click();
  assert.equal(page.url(), `${below}/#use`);
  const twin = await page.getByRole("link", { name: "This page as JSON" }).getAttribute("href");
  assert.equal((await fetch(new URL(twin, page.url()))).status, 200);
  await close();
});

test("of many versions the highest are shown", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/crates/fathom`);
  assert.match(await page.locator("h1").textContent(), /0\.1\.519/);
  assert.equal(await page.locator("#versions tbody tr").count(), 500);
  assert.ok(await page.getByText("The highest 500 of 520.").isVisible());
  await close();
});

test("unfolded and read out, the page is sound, too", async () => {
  for (const viewport of Object.values(WIDTHS)) {
    const { page, close } = await tab({ viewport });
    await page.goto(`${busy}/`);
    await page.locator("#traffic-data summary").click();
    await page.locator("#chart-requests .picture").hover();
    await page.locator("#tab-way-held").click();
    assert.deepEqual(await audit(page), []);
    assert.ok(await overflow(page) <= 0);
    await close();
  }
});

test("without a script everything is there", async () => {
  for (const viewport of Object.values(WIDTHS)) {
    const { page, close } = await tab({ javaScriptEnabled: false, viewport });
    await page.goto(`${busy}/`);
    assert.equal(await page.locator("h1").textContent(), "Serving");
    assert.ok(await page.getByText(`sparse+${busy}/index/`).isVisible());
    await page.locator("#way-held summary").click();
    assert.ok(await page.getByText(`sparse+${busy}/view/held/index/`).isVisible());
    assert.equal(await page.getByRole("button", { name: "Copy" }).count(), 0);
    await page.getByRole("link", { name: "Week" }).click();
    assert.match(page.url(), /\?range=week/);
    assert.equal(await page.locator(".ranges [aria-current]").textContent(), "Week");
    await page.locator("#traffic-data summary").click();
    assert.ok(await page.locator("#traffic-data tbody tr").first().isVisible());
    await page.getByRole("searchbox").fill("harb");
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: "harbour", exact: true }).click();
    assert.match(await page.locator("h1").textContent(), /^harbour/);
    assert.ok(await page.getByText("yanked").first().isVisible());
    await close();
  }
});

test("by keyboard: skip, search, a crate, and back", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  await page.keyboard.press("Tab");
  const focused = () => page.evaluate(() => document.activeElement.textContent.trim() || document.activeElement.id);
  assert.equal(await focused(), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.getByRole("searchbox").focus();
  await page.keyboard.type("harbour");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/crates?q=harbour");
  const link = page.getByRole("link", { name: "harbour", exact: true });
  await link.focus();
  await page.keyboard.press("Enter");
  await page.waitForURL("**/crates/harbour");
  assert.match(await page.title(), /^harbour/);
  const row = (version) => page.locator("#versions tr", { hasText: version });
  assert.match(await row("1.2.0").textContent(), /held/);
  assert.match(await row("1.1.0").textContent(), /yanked/);
  await page.goBack();
  await page.waitForURL("**/crates?q=harbour");
  await close();
});

test("tabs are worked by arrows and by clicks", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  const chosen = () => page.locator('[role="tab"][aria-selected="true"]').textContent();
  const first = await chosen();
  await page.getByRole("tab", { name: first }).focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.match(await chosen(), /Held/);
  assert.ok(await page.getByText("/view/held/index/").isVisible());
  await page.keyboard.press("End");
  await page.keyboard.press("ArrowRight");
  assert.equal(await chosen(), first);
  await page.locator("#tab-way-git").click();
  assert.equal(await chosen(), "Git index");
  assert.equal(await page.getByRole("tabpanel").count(), 1, "the others are hidden");
  await close();
});

test("configuration is copied, or selected where there is no clipboard", async () => {
  const { context, page, close } = await tab();
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: busy });
  await page.goto(`${busy}/`);
  const button = page.getByRole("tabpanel").getByRole("button");
  await button.click();
  await page.getByRole("button", { name: "Copied" }).waitFor();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(copied, new RegExp(`index = "sparse\\+${busy}/index/"`));
  await close();

  const plain = await tab();
  await plain.page.addInitScript(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await plain.page.goto(`${busy}/crates/harbour`);
  await plain.page.getByRole("button", { name: "Copy" }).click();
  await plain.page.getByRole("button", { name: /Copied|Selected/ }).waitFor();
  const selected = await plain.page.evaluate(() => document.getSelection().toString().trim());
  assert.equal(selected, 'harbour = "1.2.0"');
  await plain.close();
});

test("a range is chosen without leaving the page, and taken back", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  await page.evaluate(() => { window.isSamePage = true; });
  const current = page.locator(".ranges [aria-current]");
  await page.getByRole("link", { name: "Week" }).focus();
  await page.keyboard.press("Enter");
  await page.locator(".ranges [aria-current]", { hasText: "Week" }).waitFor();
  assert.match(page.url(), /\?range=week/);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Week", "the focus stays");
  await page.goBack();
  await page.locator(".ranges [aria-current]", { hasText: "Day" }).waitFor();
  assert.equal(await current.textContent(), "Day");
  assert.ok(await page.evaluate(() => window.isSamePage));
  await close();
});

test("a chart is read out under the pointer and by keys", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  const readout = page.locator("#chart-requests .readout");
  await page.locator("#chart-requests .picture").hover();
  assert.match(await readout.textContent(), /answered from here/);
  await page.locator("#chart-bytes .picture").focus();
  await page.keyboard.press("End");
  const last = await page.locator("#chart-bytes .readout").textContent();
  await page.keyboard.press("ArrowLeft");
  const before = await page.locator("#chart-bytes .readout").textContent();
  assert.match(before, /saved/);
  assert.notEqual(last, before);
  const spoken = await page.getByRole("slider", { name: /Bytes/ }).getAttribute("aria-valuetext");
  assert.equal(spoken, before);
  await close();
});

test("the page follows what happens, and takes nothing out of one's hands", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  await page.locator("#traffic-data summary").click();
  await page.locator("#tab-way-git").click();
  await page.evaluate(() => window.scrollTo(0, 500));
  await page.getByRole("searchbox").evaluate((box) => {
    box.focus({ preventScroll: true });
    box.value = "half a na";
    box.setSelectionRange(2, 4);
  });
  const scrolled = await page.evaluate(() => window.scrollY);
  const download = await fetch(`${busy}/api/v1/crates/keel/0.3.0/download`);
  assert.equal(download.status, 200);
  await download.arrayBuffer();
  await page.locator("#events", { hasText: "keel" }).waitFor();
  const hands = await page.evaluate(() => ({
    focus: document.activeElement.id,
    value: document.activeElement.value,
    caret: [document.activeElement.selectionStart, document.activeElement.selectionEnd],
    open: document.querySelector("#traffic-data").open,
    tab: document.querySelector('[role="tab"][aria-selected="true"]').textContent,
    scrolled: window.scrollY,
    charts: document.querySelectorAll(".readout, .cursor").length,
  }));
  assert.deepEqual(hands, {
    focus: "q", value: "half a na", caret: [2, 4], open: true, tab: "Git index", scrolled, charts: 4,
  });
  assert.deepEqual(await audit(page), []);
  await close();
});

// What the next answers are: the page as it is, changed.
const answerWith = (page, url, change) => page.route(url, async (route) => {
  const answer = await route.fetch();
  await route.fulfill({ response: answer, body: change(await answer.text()) });
});
const look = (page) => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));

test("how cargo is set up follows, too, and the chosen tab stays", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  await page.locator("#tab-way-held").focus();
  await page.keyboard.press("Enter");
  await answerWith(page, `${busy}/`, (html) => html.replaceAll(busy, "http://renamed.lab"));
  await look(page);
  await page.getByText("sparse+http://renamed.lab/view/held/index/").waitFor();
  assert.equal(await page.locator('[role="tab"][aria-selected="true"]').getAttribute("id"), "tab-way-held");
  assert.equal(await page.evaluate(() => document.activeElement.id), "tab-way-held");
  assert.equal(await page.getByRole("tabpanel").getByRole("button").count(), 1);
  assert.deepEqual(await audit(page), []);
  await close();
});

test("a page that is open over an upgrade is loaded again, but not out of one's hands", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  await page.evaluate(() => { window.isSamePage = true; });
  await page.getByRole("searchbox").fill("half a na");
  let asked = 0;
  await answerWith(page, `${busy}/`, (html) => {
    asked += 1;
    return asked > 2 ? html : html.replace(/orlop\.css\?v=\w+/, "orlop.css?v=0").replace("Serving", "Renamed");
  });
  const answered = page.waitForResponse(`${busy}/`);
  await look(page);
  await (await answered).finished();
  await page.evaluate(() => new Promise((done) => setTimeout(done, 50)));
  assert.ok(await page.evaluate(() => window.isSamePage), "something is typed");
  assert.equal(await page.locator("h1").textContent(), "Serving", "nothing is mixed");
  await page.getByRole("searchbox").fill("");
  await look(page);
  await page.waitForFunction(() => !window.isSamePage);
  await close();
});

test("of two ranges chosen in haste the last one is shown", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  let release;
  const held = new Promise((done) => { release = done; });
  await page.route(`${busy}/?range=week`, async (route) => {
    await held;
    await route.continue();
  });
  const late = page.waitForResponse(`${busy}/?range=week`);
  await page.getByRole("link", { name: "Week" }).click();
  await page.getByRole("link", { name: "Year" }).click();
  await page.locator(".ranges [aria-current]", { hasText: "Year" }).waitFor();
  release();
  await (await late).finished();
  await page.evaluate(() => new Promise((done) => setTimeout(done, 50)));
  assert.equal(await page.locator(".ranges [aria-current]").textContent(), "Year");
  assert.match(page.url(), /\?range=year$/);
  await close();
});

test("the page stands still where somebody asks for it, for the visit", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  let asked = 0;
  await answerWith(page, `${busy}/`, (html) => {
    asked += 1;
    return html;
  });
  await page.getByRole("button", { name: "Pause updates" }).click();
  await look(page);
  await page.reload();
  await look(page);
  assert.equal(asked, 1, "only the reload asked");
  assert.deepEqual(await audit(page), []);
  const again = page.waitForResponse(`${busy}/`);
  await page.getByRole("button", { name: /Resume updates/ }).click();
  await again;
  assert.ok(await page.getByRole("button", { name: "Pause updates" }).isVisible());
  await close();
});

test("a browser of before AbortSignal.timeout follows as well", async () => {
  const { page, close } = await tab();
  await page.addInitScript(() => { delete AbortSignal.timeout; });
  await page.goto(`${busy}/crates/harbour`);
  await answerWith(page, `${busy}/crates/harbour`, (html) => html.replace(">Versions</h2>", ">Followed</h2>"));
  await look(page);
  await page.getByText("Followed").waitFor();
  assert.equal(await page.locator(".unreachable").count(), 0);
  const time = page.locator("#crate-facts time");
  assert.match(await time.textContent(), /ago|just now/, "when it was checked is told by the clock");
  await close();
});

test("what is selected stays selected while the page follows", async () => {
  const { page, close } = await tab();
  await page.goto(`${busy}/`);
  const fact = "#held-title";
  await page.evaluate((at) => {
    const range = document.createRange();
    range.selectNodeContents(document.querySelector(at));
    document.getSelection().addRange(range);
  }, fact);
  const answered = page.waitForResponse(`${busy}/`);
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await (await answered).finished();
  await page.evaluate(() => new Promise((done) => setTimeout(done, 0)));
  assert.equal(await page.evaluate(() => document.getSelection().toString()), "What is held");
  await close();
});

test("a mirror that is gone is said to be, and when it is back nothing is left of it", async () => {
  const { page, context, wrong } = await tab();
  await page.goto(`${doomed}/`);
  process.kill(doomedPid, "SIGKILL");
  const told = page.locator(".unreachable");
  await told.waitFor();
  assert.equal(await page.title(), "Not reachable · orlop");
  assert.equal(await page.locator("h1").textContent(), "Not reachable");
  assert.equal(await page.locator("#verdict > .mark:visible").getAttribute("class"), "mark bad");
  assert.match(await told.textContent(), /Not reachable since/);
  assert.ok(await told.evaluate((line) => line.closest('[role="status"]') !== null));
  assert.deepEqual(await audit(page), []);
  await page.screenshot({ path: `${screenshots}/unreachable-desktop-light.png` });
  const still = await fetch(`${busy}/`).then((answer) => answer.text());
  await page.route(`${doomed}/`, (route) => route.fulfill({ contentType: "text/html", body: still }));
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await told.waitFor({ state: "detached" });
  assert.equal(await page.locator("h1").textContent(), "Serving");
  assert.equal(await page.title(), "Serving · orlop");
  assert.equal(await page.locator("#verdict > .mark").count(), 1);
  await context.close();
  const others = wrong.filter((text) => !text.includes("Failed to load resource: net::"));
  assert.deepEqual(others, []);
});

test("forced colours and print have the charts", async () => {
  const { page, close } = await tab({ forcedColors: "active" });
  await page.goto(`${busy}/`);
  await page.screenshot({ path: `${screenshots}/busy-desktop-forced.png`, fullPage: true });
  const fill = await page.locator("#chart-requests .above").last().evaluate((bar) => getComputedStyle(bar).fill);
  assert.notEqual(fill, "none");
  await page.emulateMedia({ media: "print" });
  assert.ok(await page.locator("#chart-requests svg").isVisible());
  await close();
});
