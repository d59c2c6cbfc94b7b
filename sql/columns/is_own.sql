-- Nothing more: a delete here is what it says.
true
