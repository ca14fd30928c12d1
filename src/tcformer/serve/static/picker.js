// Choosing a picture: drop it, paste it, look for it, or take an example. Sends its bytes.

const most = Number(props.most_bytes);
const box = element.querySelector(".tcf-drop");
const input = element.querySelector(".tcf-file");
const message = element.querySelector(".tcf-message");
let sending = false;

function say(text) {
  message.textContent = text;
  message.hidden = !text;
}

function tooLarge(file) {
  const size = (file.size / 2 ** 20).toFixed(1);
  return `${file.name} has ${size} MB, and at most ${props.most_text} are taken: make it smaller and try again.`;
}

function send(file) {
  if (!file || sending) return;
  if (file.size > most) return say(tooLarge(file));
  if (file.size === 0) return say(`${file.name} is empty: choose another picture.`);
  const reader = new FileReader();
  sending = true;
  say("");
  reader.onerror = () => {
    sending = false;
    say(`${file.name} could not be read: choose it again.`);
  };
  reader.onload = () => {
    sending = false;
    trigger("upload", { name: file.name, data: String(reader.result).split(",", 2)[1] ?? "" });
  };
  reader.readAsDataURL(file);
}

input.addEventListener("change", () => {
  send(input.files[0]);
  input.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragenter", "dragover"])
  box.addEventListener(name, (event) => {
    event.preventDefault();
    box.classList.add("tcf-over");
  });
for (const name of ["dragleave", "drop"]) box.addEventListener(name, () => box.classList.remove("tcf-over"));
box.addEventListener("drop", (event) => {
  event.preventDefault();
  send(event.dataTransfer.files[0]);
});
// A file that misses the box would make the browser leave the page for it.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (file) send(file);
});

const examples = element.querySelector(".tcf-examples");
for (const [name, picture] of JSON.parse(props.examples)) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tcf-example";
  const image = document.createElement("img");
  image.src = picture;
  image.alt = "";
  const caption = document.createElement("span");
  caption.textContent = name;
  button.append(image, caption);
  button.addEventListener("click", () => {
    say("");
    trigger("select", { example: name });
  });
  examples.append(button);
}

watch("value", () => say(JSON.parse(props.value || "{}").message ?? ""));
