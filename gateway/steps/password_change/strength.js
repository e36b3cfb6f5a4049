// An estimate of a password's strength while it is typed: cheap, on this machine only. The verdict is the server's, on submit.
// It leans to the low side: length in different characters counts, runs and repeats and the user name do not.

const root = document.querySelector("[data-password]");
const field = root.querySelector('input[name="new_password"]');
const again = root.querySelector('input[name="confirm_password"]');
const meter = root.querySelector("[data-strength-meter]");
const text = root.querySelector("[data-strength-text]");
const policy = JSON.parse(root.dataset.policy);
const names = JSON.parse(root.dataset.names).filter((name) => name.length > 2);
const WORDS = ["Very weak", "Weak", "Fair", "Good", "Strong"];

function score(password) {
  let kept = password.toLowerCase();
  for (const name of names) kept = kept.replaceAll(name.toLowerCase(), "");
  // A character that repeats or continues the one before it adds nothing: aaaa, abcd, 4321.
  const codes = Array.from(kept, (c) => c.codePointAt(0));
  const fresh = codes.filter((c, i) => i === 0 || Math.abs(c - codes[i - 1]) > 1).length;
  const kinds = [/[a-z]/, /[A-Z]/, /[0-9]/, /[^a-zA-Z0-9]/].filter((kind) => kind.test(password)).length;
  const bits = Math.min(fresh, new Set(codes).size * 2) * (1.6 + 0.5 * kinds);
  return [18, 26, 34, 46].filter((step) => bits >= step).length;
}

function advice(password, value) {
  const length = Array.from(password).length;
  if (length < policy.min_length) return `${policy.min_length - length} more characters needed.`;
  if (length > policy.max_length) return `At most ${policy.max_length} characters.`;
  if (names.some((name) => password.toLowerCase().includes(name.toLowerCase()))) return "It must not hold your user name.";
  if (again.value && again.value !== password) return "The two new passwords differ.";
  return `${WORDS[value]}.`;
}

let waiting;
function show() {
  const password = field.value;
  root.querySelector("[data-strength]").hidden = password === "";
  const value = score(password);
  meter.value = value;
  meter.textContent = WORDS[value];
  // Said when typing pauses, so that a screen reader is not talked over.
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const said = password === "" ? "" : advice(password, value);
    if (text.textContent !== said) text.textContent = said;
  }, 600);
}

field.addEventListener("input", show);
again.addEventListener("input", show);
