// Inflates the script that is stored in the page, and adds it. The policy of the page contains its hash.
const stored = Uint8Array.from(atob(document.getElementById("script").textContent), (char) => char.charCodeAt(0));
const stream = new Blob([stored]).stream().pipeThrough(new DecompressionStream("deflate"));
const script = document.createElement("script");
script.type = "module";
script.textContent = await new Response(stream).text();
document.head.append(script);
