
"use strict";
(async () => {
  const main = document.querySelector("main");
  const status = document.getElementById("status");
  const body = document.getElementById("states");
  const pause = (time) => new Promise((done) => setTimeout(done, time));
  const shown = () => new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const shortest = 1000 * Number(main.dataset.poll);
  let wait = shortest, drawn = performance.now();

  // What a reader has opened or stands in stays as it is: rows are added, and of old ones only the time spent changes.
  function mend(rows) {
    const fresh = new Map(Array.from(rows, (row) => [row.id, row]));
    for (const row of Array.from(body.rows)) if (!fresh.has(row.id)) row.remove();
    Array.from(fresh.values()).forEach((row, index) => {
      const old = document.getElementById(row.id);
      if (old) {
        old.querySelector(".spent").textContent = row.querySelector(".spent").textContent;
      } else {
        row.classList.add("new");
        body.insertBefore(document.adoptNode(row), body.rows[index] || null);
      }
    });
  }

  async function look() {
    // What is shown of a state that goes on is shown anew as its age grows by a fiftieth.
    const isOld = performance.now() - drawn > Math.max(5000, 20 * Number(main.dataset.age));
    const query = new URLSearchParams(location.search);
    if (isOld) query.delete("seen"); else query.set("seen", main.dataset.seen);
    const answer = await fetch("?" + query, { cache: "no-store", signal: AbortSignal.timeout(60000) });
    if (answer.status === 204) return say("Live.");
    if (answer.status === 404) { main.dataset.open = ""; document.title = "No such run"; return say("The run is no longer there."); }
    if (!answer.ok) throw new Error("status " + answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const then = page.querySelector("main[data-seen]");
    if (!then) throw new Error("another page");
    const isNews = then.dataset.seen !== main.dataset.seen;
    for (const id of ["summary", "chart", "more"]) document.getElementById(id).replaceChildren(...page.getElementById(id).childNodes);
    mend(page.getElementById("states").rows);
    Object.assign(main.dataset, then.dataset);
    document.title = page.title;
    drawn = performance.now();
    const now = document.querySelector("#summary .type").lastChild.textContent;
    if (!main.dataset.open) say("The run has ended: " + now + ".");
    else say(isNews ? "Live. New state: " + now + "." : "Live.");
  }

  while (main.dataset.open) {
    await pause(wait);
    if (document.hidden) await shown();
    try {
      await look();
      wait = shortest;
    } catch (error) {
      wait = Math.min(2 * wait, 60000);
      say("No news (" + error.message + "). Asks again in " + wait / 1000 + " s.");
    }
  }
})();
