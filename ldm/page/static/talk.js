// Asks the server; what it refuses becomes an error whose message is for people.

export class Refused extends Error {}

const AWAY = "The page's server does not answer. Is it still running? Start it again, then reload this page.";

async function ask(path, how = {}) {
  let answer;
  try {
    answer = await fetch(path, how);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(AWAY);
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(said.error ?? `The server said ${answer.status}; try again.`);
  }
  return answer;
}

export const facts = async () => (await ask("api")).json();
export const knownPhoto = async (name) => (await ask(`api/photos/${encodeURIComponent(name)}`)).json();
export const upload = async (file) => (await ask("api/photos", { method: "POST", body: file })).json();
export const cancel = async (job) => ask(`api/jobs/${encodeURIComponent(job)}`, { method: "DELETE" });

// Yields the events of a request as they come.
export async function* events(path, body) {
  const answer = await ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/x-ndjson" },
    body: JSON.stringify(body),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(() => { throw new Refused(AWAY); });
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}
