// Lights up the bytes of a field, and the field of a byte.
const fieldsOf = message => [...message.querySelectorAll('li')];

const fieldAt = target => {
  const leaf = target.closest?.('[data-leaf]')?.dataset.leaf;
  if (leaf === undefined) return target.closest?.('.fields li');
  const fields = fieldsOf(target.closest('.message'));
  return fields.find(field => field.dataset.first === leaf && !field.classList.contains('group'));
};

const light = field => {
  for (const lit of document.querySelectorAll('.on')) lit.classList.remove('on');
  if (!field) return;
  field.classList.add('on');
  for (const bytes of field.closest('.message').querySelectorAll('[data-leaf]')) {
    const leaf = Number(bytes.dataset.leaf);
    bytes.classList.toggle('on', leaf >= field.dataset.first && leaf < field.dataset.end);
  }
};

const focused = () => document.activeElement.closest('.fields li');

document.addEventListener('mouseover', event => light(fieldAt(event.target) ?? focused()));
document.addEventListener('focusin', event => light(fieldAt(event.target)));
document.addEventListener('focusout', () => light(null));
document.addEventListener('click', event => fieldAt(event.target)?.focus());

// The fields of a message are one stop for Tab. The arrow keys move inside.
document.addEventListener('keydown', event => {
  const field = focused();
  if (!field) return;
  const fields = fieldsOf(field.closest('.message'));
  const at = fields.indexOf(field);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: fields.length - 1 }[event.key];
  if (!fields[next]) return;
  event.preventDefault();
  field.tabIndex = -1;
  fields[next].tabIndex = 0;
  fields[next].focus();
});
